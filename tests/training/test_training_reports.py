"""Reports: tokens per second, utilisation, memory and wall time; pictures of curves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from regression import regression_task  # noqa: E402

from penjing.errors import SpecError  # noqa: E402
from penjing.training.curves import curves_svg  # noqa: E402
from penjing.training.loop import TrainingConfig, train  # noqa: E402
from penjing.training.reports import Effort, StepReport, peak_memory_bytes  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def test_speeds_follow_from_the_time_of_a_step() -> None:
    task = dataclasses.replace(regression_task(), num_tokens=lambda inputs: inputs.numel())
    lines: list[StepReport] = []
    config = TrainingConfig(4, micro_batches=3, log_every=2, effort=Effort(6e6, 2e9))
    train(task, config, report=lines.append)
    for line in lines:
        assert line.tokens_per_second == pytest.approx(3 * 16 * 6 / line.seconds_per_step)
        assert line.flop_utilisation == pytest.approx(6e6 / line.seconds_per_step / 2e9)
    assert lines[0].seconds == pytest.approx(2 * lines[0].seconds_per_step)
    assert lines[1].seconds == pytest.approx(2 * (lines[0].seconds_per_step + lines[1].seconds_per_step))


def test_what_is_not_given_is_not_guessed(tmp_path: Path) -> None:
    lines: list[StepReport] = []
    train(regression_task(), TrainingConfig(1, log_every=1), tmp_path, report=lines.append)
    assert lines[0].tokens_per_second is None
    assert lines[0].flop_utilisation is None
    train(regression_task(), TrainingConfig(2, log_every=1), tmp_path, report=lines.append)
    assert lines[1].seconds > lines[0].seconds, "a resumed run adds to its time"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to compare with")
def test_peak_memory_is_what_the_kernel_says() -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    assert peak_memory_bytes() == pytest.approx(peak, rel=0.05)


def test_an_effort_must_be_positive() -> None:
    with pytest.raises(SpecError, match="positive"):
        Effort(1.0, 0.0)


def test_a_run_leaves_a_picture_of_its_curves(tmp_path: Path) -> None:
    train(regression_task(), TrainingConfig(6, evaluate_every=3, log_every=2), tmp_path)
    picture = ElementTree.parse(tmp_path / "curve.svg").getroot()
    lines = picture.findall(f"{SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 2]
    assert {"training", "held out"} <= {text.text for text in picture.findall(f"{SVG}text")}


def test_the_picture_spans_its_frame_and_escapes_names() -> None:
    picture = ElementTree.fromstring(curves_svg("a < b", {"x & y": [(0, 3.0), (50, 2.0), (100, 1.0)]}))
    (line,) = picture.findall(f"{SVG}polyline")
    assert line.attrib["points"] == "44.0,44.0 320.0,160.0 596.0,276.0"
    texts = [text.text for text in picture.findall(f"{SVG}text")]
    assert texts == ["a < b", "3.00", "1.00", "0", "100", "x & y"]
    assert ElementTree.fromstring(curves_svg("none yet", {})).tag == f"{SVG}svg"
