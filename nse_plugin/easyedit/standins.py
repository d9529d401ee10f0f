"""Stand-in modules for importing EasyEdit without the libraries that only its other methods need.

`import easyeditor` imports all of its methods, including the multimodal ones, and with them torchvision, timm, opencv
and more, in versions that are incompatible with new releases of transformers. Editing text needs none of these
libraries, so empty stand-ins replace them if they are missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

# Modules of EasyEdit itself, replaced as a whole: a stand-in for torchvision would mislead transformers, which checks
# whether it is installed and caches the result.
_PARTS = {
    "easyeditor.trainer.blip2_models": ("Blip2OPT", "MiniGPT4"),
    "easyeditor.dataset.processor.blip_processors": ("BlipImageEvalProcessor",),
    "easyeditor.dataset.processor.llavaov_processors": ("LLaVAOneVisionProcessor",),
    "easyeditor.dataset.processor.qwen2vl_processors": ("Qwen2VLProcessor",),
}
# Small libraries used by methods that call a web service or score long answers.
_LIBRARIES = {"zhipuai": ("ZhipuAI",), "rouge": ("Rouge",)}


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Put the stand-ins into `sys.modules` while EasyEdit is imported.

    Stand-ins for EasyEdit's own modules remain afterwards, because EasyEdit imports some of them again later. Stand-ins
    for third-party libraries are removed, so that no other code takes them for the real libraries.
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
    """Create a module with these classes, which raise an ImportError naming the missing module when instantiated."""

    def refuse(self: object, *args: object, **kwargs: object) -> None:
        raise ImportError(
            f"{type(self).__name__} is not available: {module_name} could not be imported together with "
            "EasyEdit; install all of EasyEdit's requirements to use it."
        )

    module = ModuleType(module_name)
    for class_name in class_names:
        setattr(module, class_name, type(class_name, (), {"__init__": refuse}))
    return module
