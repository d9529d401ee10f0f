"""Let EasyEdit be imported without the libraries that only its other methods need.

`import easyeditor` imports every method it has, the multimodal ones too, and with them torchvision, timm,
opencv and more, in versions that new releases of transformers no longer fit. Editing text needs none of
them, so, where they are missing, empty stand-ins take their place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

# Parts of EasyEdit itself, replaced whole: a stand-in for torchvision would mislead transformers, which
# asks whether it is installed and remembers the answer.
_PARTS = {
    "easyeditor.trainer.blip2_models": ("Blip2OPT", "MiniGPT4"),
    "easyeditor.dataset.processor.blip_processors": ("BlipImageEvalProcessor",),
    "easyeditor.dataset.processor.llavaov_processors": ("LLaVAOneVisionProcessor",),
    "easyeditor.dataset.processor.qwen2vl_processors": ("Qwen2VLProcessor",),
}
# Small libraries of methods that call a web service or score long answers.
_LIBRARIES = {"zhipuai": ("ZhipuAI",), "rouge": ("Rouge",)}


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Put the stand-ins into `sys.modules` while EasyEdit is imported.

    Those of EasyEdit's own parts stay, because it imports some of them again later; those of other
    people's libraries go, so that no other library takes them for the real ones.
    """
    libraries = {name: names for name, names in _LIBRARIES.items() if importlib.util.find_spec(name) is None}
    for module_name, class_names in {**_PARTS, **libraries}.items():
        sys.modules[module_name] = _empty_module(module_name, class_names)
    try:
        yield
    finally:
        for module_name in libraries:
            del sys.modules[module_name]


def _empty_module(module_name: str, class_names: tuple[str, ...]) -> ModuleType:
    """A module whose classes can be named, but raise an error that names the missing package when instantiated."""

    def refuse(self: object, *args: object, **kwargs: object) -> None:
        raise ImportError(
            f"{type(self).__name__} is not available: {module_name} could not be imported together with "
            "EasyEdit; install all of EasyEdit's requirements to use it."
        )

    module = ModuleType(module_name)
    for class_name in class_names:
        setattr(module, class_name, type(class_name, (), {"__init__": refuse}))
    return module
