"""The main job from end to end, on the embedded model: `penjing demo`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from penjing.cli.show import progress_bar
from penjing.cli.tables import print_evaluation, print_profile
from penjing.errors import EngineError, MissingExtraError
from penjing.models import SEEDLING_NAME, SEEDLING_TEXT
from penjing.optimize.profile import measure_profile
from penjing.optimize.search import optimize
from penjing.spec import Budget

BUDGET = Budget(max_size=0.6, max_loss=0.02)
PROMPT = "def read_lines(path):\n"
MAX_TOKENS = 64
SERVICE_SECONDS = 30  # to start, and again to stop


def run_demo() -> None:
    """Run every stage, printing as it goes. Raises MissingExtraError without the `openai` client."""
    try:
        import openai  # noqa: F401
    except ImportError:
        raise MissingExtraError("demo", "openai", "the demo's client") from None
    heading("1. What the embedded model costs")
    print_profile(measure_profile(SEEDLING_NAME))
    with tempfile.TemporaryDirectory(prefix="penjing-demo-") as directory:
        tray = Path(directory) / "tray"
        heading("2. Optimize it: at most 60% of the size, perplexity at most 2% higher")
        with progress_bar() as progress:
            result = optimize(
                SEEDLING_NAME, tray, BUDGET, SEEDLING_TEXT, method="search", say=print, progress=progress
            )
        print(f"chosen: {result.chosen}")
        heading("3. What that cost, measured as served")
        print_evaluation(result.evaluation)
        heading("4. Serve it, and ask through the openai client")
        ask(tray)


def heading(text: str) -> None:
    """Set a stage apart."""
    print(f"\n== {text} ==\n", flush=True)


def ask(tray: Path) -> None:
    """Start the service on a free port, stream one completion, stop the service cleanly."""
    command = [sys.executable, "-m", "penjing", "serve", str(tray), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as service:
        try:
            stream_completion(wait_for_url(service), tray.name)
        finally:
            service.send_signal(signal.SIGTERM)
            code = service.wait(timeout=SERVICE_SECONDS)
    print(f"\n\nthe service stopped with exit code {code}")
    if code != 0:
        raise EngineError(f"the service ended with exit code {code}")


def wait_for_url(service: subprocess.Popen[str]) -> str:
    """The address that the service prints when it is ready. Raises EngineError if it ends before."""
    assert service.stdout is not None
    said = []
    for line in service.stdout:
        if found := re.search(r"https?://\S+", line):
            return found.group(0)
        said.append(line.strip())
    raise EngineError(f"the service did not start: {' '.join(said)}")


def stream_completion(url: str, model: str) -> None:
    """Print a completion as it arrives."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    print(f"POST {url}/v1/completions\n")
    print(PROMPT, end="")
    stream = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=MAX_TOKENS, temperature=0, stream=True
    )
    for chunk in stream:
        print(chunk.choices[0].text, end="", flush=True)
