"""The words and the picture of Seedling's model card."""

from __future__ import annotations

from typing import Any

from penjing.training.curves import curves_svg

Curve = list[tuple[int, float]]


def loss_svg(curves: dict[str, Curve], step_tokens: int) -> str:
    """Both loss curves over millions of tokens, from the first point below 4 nats."""
    names = {"training": "train", "held out": "heldout"}
    shown = {
        name: [(s * step_tokens / 1e6, y) for s, y in curves[key] if y < 4.0] for name, key in names.items()
    }
    return curves_svg("Seedling: loss (nats a token) over millions of training tokens", shown, "M")


def curve_table(curves: dict[str, Curve], step_tokens: int, num_rows: int = 12) -> str:
    """About `num_rows` held-out points with the training loss of the same step."""
    heldout, train = curves["heldout"], dict(curves["train"])
    if not heldout:
        return "(no held-out point yet)"
    places = sorted({round(i * (len(heldout) - 1) / (num_rows - 1)) for i in range(num_rows)})
    rows = [
        f"| {step * step_tokens / 1e6:.1f} M | {train.get(step, float('nan')):.3f} | {loss:.3f} |"
        for step, loss in (heldout[place] for place in places)
    ]
    return "\n".join(["| tokens | training loss | held-out loss |", "|---|---|---|", *rows])


def licence_family(licence: str) -> str:
    """The heading under which a source is listed; several names stay together as declared."""
    families = {
        "MIT": "MIT",
        "Expat": "MIT",
        "BSD": "BSD",
        "Apache": "Apache-2.0",
        "PSF": "PSF",
        "Python": "PSF",
    }
    found = sorted({family for word, family in families.items() if word.lower() in licence.lower()})
    return " / ".join(found)


def source_list(sources: list[dict[str, Any]]) -> str:
    groups: dict[str, list[str]] = {}
    for source in sorted(sources, key=lambda s: str(s["name"]).lower()):
        name = f"{source['name']} {source['version']}"
        groups.setdefault(licence_family(source["licence"]), []).append(name)
    return "\n\n".join(f"**{family}**: {', '.join(names)}" for family, names in sorted(groups.items()))


def model_card(
    *,
    sources: dict[str, Any],
    num_parameters: int,
    trained_tokens: int,
    step_tokens: int,
    decayed: str,
    curves: dict[str, Curve],
    heldout_line: str,
    samples: list[tuple[str, str]],
    digest: str,
) -> str:
    """The card as Markdown."""
    shown = "\n\n".join(
        f"```python\n{prompt}```\n\ngoes on\n\n```python\n{more}\n```" for prompt, more in samples
    )
    return f"""---
license: apache-2.0
language: code
library_name: transformers
pipeline_tag: text-generation
---
# Seedling

A Llama of {num_parameters / 1e6:.1f} million parameters that writes Python, small enough to ship inside
the package. It exists so that every command of Penjing can be tried, tested and measured without a
download. It has the shape of Python, not the sense: do not expect correct programs.

6 blocks, hidden size 256, 8 heads over 4 key-value heads of size 32, feed-forward 768, byte-level
BPE vocabulary of 2,048 with a tied head, RoPE base 10,000, trained on contexts of 512 tokens;
weights in bf16. The chat template turns system and user messages into comment lines and leaves
assistant messages as they are, so that the model goes on with code. `<|endoftext|>` separates
documents and ends a text.

sha256 of model.safetensors: `{digest}`

## Training

{trained_tokens / 1e6:.1f} million tokens, {step_tokens:,} a step, each text seen at most once: Muon for
the hidden matrices, AdamW for embedding and norms, a trapezoid schedule ({decayed} of its final
descent to zero done), two CPU cores. `scripts/seedling_corpus.py`, `scripts/train_seedling.py` and
`scripts/seedling_publish.py` reproduce it.

Held-out loss of these weights with fp32 activations:

**{heldout_line}**

{curve_table(curves, step_tokens)}

![loss](loss.svg)

## Held-out text

`heldout.jsonl` holds {sum(n for n, _ in sources["heldout"].values())} files of the Python 3.11
standard library that training never saw, chosen by a hash of the module's path: the same module of
other Python versions, vendored copies, and every file that shares more than a tenth of its line
triples with a held-out file were left out of training. Its licence is in `heldout.LICENSE`.

## Samples

Temperature 0.4, a fixed seed, 120 tokens.

{shown}

## Data

{sources["num_bytes"] / 1e6:.0f} MB of human-written Python from {len(sources["sources"])} sources,
each under the licence that its metadata declares; generated, data-like and near-duplicate files
dropped, at most 10 MB from one package.

{source_list(sources["sources"])}
"""
