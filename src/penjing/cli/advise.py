"""The command that answers "what should I do on this machine?"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penjing.cli.options import Json, Model, Threads
from penjing.cli.show import print_json, progress_bar

if TYPE_CHECKING:  # the package behind it takes time to load
    from rich.console import Console

    from penjing.optimize.advise import Advice, Option

RISKS = {  # words, colour
    "none": ("none", ""),
    "tiny": ("hardly any", "green"),
    "small": ("small", "green"),
    "noticeable": ("noticeable", "yellow"),
    "heavy": ("heavy", "red"),
    "training": ("untrained", "yellow"),
}
COMMAND_INDENT = "    "


def advise(
    model: Model,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens in the KV cache while decoding. Default: 2048.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 1,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say what could be done with a model on this machine, and what is best, in seconds.

    Nothing is made: sizes are counted, speeds predicted from kernels timed here (the first time, some
    seconds), losses those known of each way.
    """
    from penjing.optimize.advise import advise as ask

    with progress_bar() as progress:
        advice = ask(model, context=context, streams=streams, threads=threads, progress=progress)
    if as_json:
        print_json(advice.model_dump(mode="json"))
    else:
        print_advice(advice)


def print_advice(advice: Advice) -> None:
    """The question, a table of options, the answer, and how to do it."""
    from rich.console import Console

    console = Console(highlight=False)
    print_question(advice, console)
    print_options(advice, console)
    print_answer(advice, console)
    print_others(advice, console)
    for note in advice.notes:
        console.print(note, style="dim")


def print_question(advice: Advice, console: Console) -> None:
    """Which model, which machine, which load."""
    machine = (
        f"{advice.cpu}, {plural(advice.threads, 'thread')}, {advice.memory_bytes / 1e9:.0f} GB of memory "
        f"that reads {advice.read_bytes_per_second / 1e9:.0f} GB/s"
    )
    load = (
        f"{plural(advice.streams, 'request')} at a time, prompts of {advice.prompt_tokens:,} tokens, "
        f"{advice.context_tokens:,} in the cache"
    )
    console.print(f"\n[bold]{advice.model}[/], {count(advice.parameters)} parameters, {advice.family}")
    console.print(f"[dim]on[/] {machine}")
    console.print(f"[dim]for[/] {load}\n")


def print_options(advice: Advice, console: Console) -> None:
    """One line each; the recommended one stands out, what does not fit steps back."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for title in ("size", "", "wait", "tokens/s", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("loss", no_wrap=True)
    for option in advice.options:
        chosen = option.name == advice.recommended
        table.add_row(*option_row(option, chosen=chosen), style="bold" if chosen else None)
    console.print(table)
    console.print("[dim]wait: until the first token; !: more memory than this machine should give[/]\n")


def option_row(option: Option, *, chosen: bool) -> tuple[str, ...]:
    """Name, size, share, wait, speed, memory, loss."""
    predicted = option.predicted
    words, colour = RISKS[option.risk]
    loss = f"[{colour}]{words}[/]" if colour else words
    if option.perplexity_rise is not None:
        loss = f"+{percent(option.perplexity_rise)} {loss}"
    memory = size(predicted.peak_memory_bytes)
    return (
        f"{'[green]▸[/]' if chosen else ' '} {option.name}",
        size(option.tensor_bytes),
        f"{option.size_ratio:.0%}",
        duration(predicted.prefill_seconds),
        number(predicted.tokens_per_second),
        memory if option.fits else f"[red]{memory} ![/]",
        loss,
    )


def print_answer(advice: Advice, console: Console) -> None:
    """The recommended option: why, and the commands."""
    chosen = next(option for option in advice.options if option.name == advice.recommended)
    verdict, colour = ("Recommended", "green") if chosen.fits else ("Does not fit", "red")
    console.print(f"[bold {colour}]{verdict}: {chosen.name}[/] [dim]- {chosen.what}[/]")
    console.print(f"{' '.join(advice.reasons)}\n")
    for command in chosen.commands:
        console.print(f"{COMMAND_INDENT}[bold]{command}[/]", soft_wrap=True)
    console.print()


def print_others(advice: Advice, console: Console) -> None:
    """What else could be done, and how; serving goes without saying."""
    console.print("Or:", style="dim")
    for option in advice.options:
        if option.name == advice.recommended:
            continue
        console.print(f"  {option.name} [dim]- {option.what}[/]")
        for command in option.commands[: max(1, len(option.commands) - 1)]:
            console.print(f"{COMMAND_INDENT}{command}", soft_wrap=True)
    console.print()


def plural(number_of: int, thing: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number_of} {thing}{'' if number_of == 1 else 's'}"


def count(parameters: int) -> str:
    """In millions or billions."""
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.1f} million"


def size(nbytes: int) -> str:
    """Bytes in MB or GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """In ms or s."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(fraction: float) -> str:
    """As few digits as tell it from nothing."""
    return f"{100 * fraction:.2g}%"
