"""NSE written slowly and plainly, in the terms of the paper, as the reference for this package.

One fact and one prompt at a time, the whole model forward at every step, no cache, no padding, and no closed form
except the normal equations themselves.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from nse_plugin.models.layout import Layout


def relative(found, expected):
    """Norm of the difference over that of what is expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def ids_of(tokenizer, text):
    return tokenizer(text, return_tensors="pt")["input_ids"]


def subject_end(tokenizer, text, characters):
    """Index of the token that ends with the subject: the number of tokens of the text up to there, less one."""
    return len(tokenizer(text[:characters])["input_ids"]) - 1


@lru_cache(maxsize=1)
def layers_of(model):
    return Layout.of(model).layers


def run(model, ids, layer=None, position=None, delta=None):
    """One full forward pass, delta added to `layer`'s output at `position`; logits [S, V] and that output [S, d]."""
    seen = {}

    def hook(_, __, output):
        hidden = output[0] if isinstance(output, tuple | list) else output
        if delta is not None:
            hidden = hidden.clone()
            hidden[0, position] = hidden[0, position] + delta
        seen["hidden"] = hidden[0]
        return (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden

    handle = layers_of(model)[layer].register_forward_hook(hook)
    try:
        logits = model(input_ids=ids, use_cache=False).logits[0]
    finally:
        handle.remove()
    return logits, seen["hidden"]


def rows(tokenizer, fact, templates):
    """(ids with the target's tokens, lookup, number of target tokens) in every context."""
    for template in templates:
        prompt = template.replace("{}", fact.text)
        end = template.index("{}") + fact.prompt.index("{}") + len(fact.subject)
        whole = ids_of(tokenizer, f"{prompt} {fact.target_new}")
        yield whole, subject_end(tokenizer, prompt, end), whole.shape[1] - ids_of(tokenizer, prompt).shape[1]


def value(model, tokenizer, fact, templates, hparams, betas=(0.9, 0.999), stop=0.05):
    """z by plain autograd through the full model."""
    return joint_values(model, tokenizer, [fact], templates, hparams, hparams.v_num_grad_steps - 1, betas, stop)[0]


def joint_values(model, tokenizer, facts, templates, hparams, updates, betas=(0.9, 0.999), stop=0.05):
    """z of facts that share delta, in so many updates at most, on the mean of their losses. KL and norm(h) are of the
    first."""
    layer = hparams.layers[-1]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    contexts = [row for fact in facts for row in rows(tokenizer, fact, templates)]
    subject = facts[0].subject
    essence = ids_of(tokenizer, f"{subject} is a")
    essence_at = subject_end(tokenizer, subject, len(subject))
    starts = []
    for fact in facts:
        at = subject_end(tokenizer, fact.text, fact.prompt.index("{}") + len(fact.subject))
        starts.append(run(model, ids_of(tokenizer, fact.text), layer)[1][at].detach())
    maps = [norm_of(model, tokenizer, facts[0], layer) for layer in hparams.layers]
    return shared_values(model, contexts, (essence, essence_at), starts, hparams, updates, betas, stop, maps)


def norm_of(model, tokenizer, fact, layer):
    """The gain of the norm of W_out's output (Gemma's, OLMo 2's, GLM-4's), and that output at the bare prompt's lookup;
    None of other models."""
    own = layers_of(model)[layer]
    norm = getattr(own, "post_feedforward_layernorm", None) or getattr(own, "post_mlp_layernorm", None)
    if norm is None or hasattr(own, "per_layer_input_gate"):  # Gemma 4 does more to the sum
        return None
    at = subject_end(tokenizer, fact.text, fact.prompt.index("{}") + len(fact.subject))
    seen, written = [], []
    w_out = Layout.of(model).output_matrix(layer).module
    handles = [
        norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, at].detach())),
        w_out.register_forward_hook(
            lambda _, __, output: written.append(output.detach().reshape(1, -1, output.shape[-1])[:, at])
        ),
    ]
    with torch.no_grad():
        run(model, ids_of(tokenizer, fact.text), layer)
    for handle in handles:
        handle.remove()
    if not torch.equal(seen[0], written[0]):  # a norm of more than W_out's output, such as AFMoE's routed experts
        return None
    with torch.no_grad():
        gain = norm(torch.full_like(seen[0][0], 1e6))  # beside which its epsilon is nothing
    return gain, seen[0][0]


def before_norm(change, gain, v):
    """The change of v after which gain v / rms(v) is nearest to its old value plus `change`.

    min norm(gain u - target) over norm(u) = sqrt(d) has u = gain target / (gain^2 + mu), with mu the largest real
    eigenvalue of a 2d x 2d matrix (Adachi et al., SIAM J. Optim. 27, 2017).
    """
    rms, square = v.square().mean().sqrt(), gain.square().diag()
    product = gain * (gain * v / rms + change)
    both = torch.cat([
        torch.cat([-square, product.outer(product) / len(v)], dim=1),
        torch.cat([torch.eye(len(v), dtype=v.dtype), -square], dim=1),
    ])  # fmt: skip
    values = torch.linalg.eigvals(both)
    mu = values.real[values.imag.abs() <= 1e-9 * values.abs().max()].max()
    u = product / (gain.square() + mu)
    assert abs(u.square().mean() - 1) <= 1e-6
    return rms * u - v


def reachable(delta, maps):
    """What layers with norms make of delta; all of it without norms."""
    left = delta
    for place, (gain, v) in enumerate(maps):
        new = v + before_norm(left / (len(maps) - place), gain, v)
        left = left - gain * (new / new.square().mean().sqrt() - v / v.square().mean().sqrt())
    return delta - left


def shared_values(model, contexts, essence, starts, hparams, updates, betas=(0.9, 0.999), stop=0.05, maps=(None,)):
    """z of all `starts`, which share delta. contexts: as `rows` gives them. essence: its ids, and where KL is taken.
    maps: `norm_of` the edited layers."""
    layer, (essence, essence_at) = hparams.layers[-1], essence
    h = starts[0]
    before = run(model, essence, layer)[0][essence_at].log_softmax(-1).detach()
    delta = torch.zeros_like(h, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=hparams.v_lr, betas=betas)
    for step in range(updates + 1):
        losses, is_said = [], True
        for ids, lookup, count in contexts:
            logits, _ = run(model, ids, layer, lookup, delta)
            log_probs = logits[-count - 1 : -1].log_softmax(-1)
            losses.append(-log_probs[range(count), ids[0, -count:]].mean())
            is_said &= torch.equal(log_probs.argmax(-1), ids[0, -count:])
        now = run(model, essence, layer, essence_at, delta)[0][essence_at].log_softmax(-1)
        kl = (now.exp() * (now - before)).sum()
        decay = delta.norm() / h.norm() ** 2
        loss = torch.stack(losses).mean() + hparams.kl_factor * kl + hparams.v_weight_decay * decay
        if loss < stop or step == updates or (is_said and hparams.z_stop == "argmax"):
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            longest = hparams.clamp_norm_factor * h.norm()
            if delta.norm() > longest:
                delta *= longest / delta.norm()
            if None not in maps:
                delta.copy_(reachable(delta, maps))
    return [start + delta.detach() for start in starts]


def key_and_output(model, tokenizer, fact, templates, layer, last):
    """The input of `layer`'s W_out, mean over contexts as MEMIT weighs them; the bare prompt's output of `last`."""
    module = Layout.of(model).output_matrix(layer).module
    keys, outputs = [], []
    for template in templates:
        text = template.replace("{}", fact.text)
        at = subject_end(tokenizer, text, template.index("{}") + fact.prompt.index("{}") + len(fact.subject))
        seen = []
        handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0]))
        with torch.no_grad():
            hidden = run(model, ids_of(tokenizer, text), last)[1]
        handle.remove()
        keys.append(seen[0][at])
        outputs.append(hidden[at])
    key = keys[0] if len(keys) == 1 else (keys[0] + torch.stack(keys[1:]).mean(0)) / 2
    return key, outputs[0]


def neurons(keys, p):
    """The smallest set of neurons by score whose scores reach p of the total, found by trying every size."""
    scores = torch.stack(keys).abs().sum(0)
    if p == 1:
        return list(range(len(scores)))
    order = sorted(range(len(scores)), key=lambda j: (-scores[j].item(), j))
    for size in range(1, len(order) + 1):
        if scores[order[:size]].sum() >= p * scores.sum():
            return sorted(order[:size])
    return sorted(order)


def update(keys, residuals, second_moment, protected, weight, chosen):
    """Delta[:, I] = R K^T (lambda C0 + Kp Kp^T + K K^T)^-1, written as its normal equations, with a general inverse."""
    k = torch.stack(keys)[:, chosen].T.double()
    r = torch.stack(residuals).T.double()
    kp = torch.stack(protected)[:, chosen].T.double() if len(protected) else k[:, :0]
    matrix = weight * second_moment[chosen][:, chosen].double() + kp @ kp.T + k @ k.T
    return r @ k.T @ torch.linalg.inv(matrix)


def edit_round(model, tokenizer, facts, templates, values, moments, protected, hparams):
    """One round of preset paper, in place; returns the keys to protect {layer: [key, ...]} and the residual norms."""
    layers = hparams.layers
    layout = Layout.of(model)
    going = list(range(len(facts)))
    for _ in range(hparams.max_iterations):
        for i, layer in enumerate(layers):
            seen = [key_and_output(model, tokenizer, facts[j], templates, layer, layers[-1]) for j in going]
            keys = [key for key, _ in seen]
            residuals = [(values[j] - h) / (len(layers) - i) for j, (_, h) in zip(going, seen, strict=True)]
            maps = [norm_of(model, tokenizer, facts[j], layer) for j in going]
            if None not in maps:
                residuals = [before_norm(r, *own) for r, own in zip(residuals, maps, strict=True)]
            chosen = neurons(keys, hparams.p)
            delta = update(
                keys, residuals, moments[layer], protected.get(layer, []), hparams.mom2_update_weight, chosen
            )
            layout.output_matrix(layer).matrix[:, chosen] += delta
        outputs = [key_and_output(model, tokenizer, fact, templates, layers[-1], layers[-1])[1] for fact in facts]
        norms = [(z - h).norm() for z, h in zip(values, outputs, strict=True)]
        going = [j for j, norm in enumerate(norms) if norm > hparams.alpha]
        if not going:
            break
    final = {
        layer: [key_and_output(model, tokenizer, fact, templates, layer, layers[-1])[0] for fact in facts]
        for layer in layers
    }
    return final, torch.stack(norms)
