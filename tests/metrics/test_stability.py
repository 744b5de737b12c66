"""Flicker, warp error and VMAF of clips whose faults and motion are known."""

import errno
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fatezero_ext.metrics import vmaf
from fatezero_ext.metrics.clip_pairs import NotMeasured
from fatezero_ext.metrics.edit_metrics import as_json, measure_edit, report
from fatezero_ext.metrics.stability import dis_flow, flicker, warp_errors
from fatezero_ext.metrics.vmaf import vmaf_score

LEVEL = 1 / 255
FRAMES, HEIGHT, WIDTH = 4, 40, 48
STEP = 2
"""Pixels that the picture moves to the right in each frame."""
EVERYWHERE = torch.ones(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)


def moving(seed=0, step=STEP):
    """A smooth picture that slides to the right."""
    wide = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(wide, (HEIGHT, WIDTH + FRAMES * STEP), mode="bicubic").clamp(0, 1)[0]
    starts = [(FRAMES - 1 - frame) * step for frame in range(FRAMES)]
    return torch.stack([wide[:, :, start : start + WIDTH] for start in starts]).movedim(1, -1)


def flow_of(source, step=STEP):
    """The true flow: a pixel of a frame was `step` to the left one frame before."""
    order = {frame.numpy().tobytes(): place for place, frame in enumerate(source)}

    def flow(frame, other):
        places = order[other.numpy().tobytes()] - order[frame.numpy().tobytes()]
        return torch.tensor((float(places * step), 0.0)).expand(HEIGHT, WIDTH, 2)

    return flow


def test_what_moves_as_the_source_moves_has_no_warp_error():
    source = moving()
    found = warp_errors(source, 1 - source, EVERYWHERE, flow_of(source))
    assert found.edit == pytest.approx(0, abs=1e-3) and found.source == pytest.approx(0, abs=1e-3)


def test_pixels_that_come_from_outside_the_frame_do_not_count():
    source = moving()
    assert warp_errors(source, source, EVERYWHERE, flow_of(source)).share == pytest.approx((WIDTH - STEP) / WIDTH)


def test_brightness_that_changes_by_two_levels_a_frame_is_a_warp_error_of_two():
    source = moving() * 0.9
    flickering = source + 2 * LEVEL * torch.arange(FRAMES).view(-1, 1, 1, 1)
    found = warp_errors(source, flickering, EVERYWHERE, flow_of(source))
    assert found.edit == pytest.approx(2, abs=1e-3) and found.source == pytest.approx(0, abs=1e-3)


def test_an_edit_that_stands_still_where_the_source_moves_has_a_warp_error_and_no_share_of_the_source_s():
    source = moving()
    found = warp_errors(source, source[:1].expand_as(source), EVERYWHERE, flow_of(source))
    assert found.edit > 5 and found.source < 0.01


def test_flow_that_does_not_lead_back_marks_what_is_hidden():
    source = moving()

    def torn(frame, other):
        flow = flow_of(source)(frame, other).clone()
        if flow[0, 0, 0] > 0:  # there, as against back
            flow[: HEIGHT // 2] += 5
        return flow

    whole = warp_errors(source, source, EVERYWHERE, flow_of(source)).share
    assert warp_errors(source, source, EVERYWHERE, torn).share == pytest.approx(whole / 2)


def test_masked_pixels_do_not_count_over_time():
    source = moving() * 0.9
    compared = EVERYWHERE.clone()
    compared[:, : HEIGHT // 2] = False
    edited = source.clone()
    edited[1::2, : HEIGHT // 2] += 0.1
    assert flicker(source, edited, compared) == pytest.approx(0, abs=1e-4)
    assert flicker(source, edited, EVERYWHERE) == pytest.approx(0.05 / LEVEL, rel=1e-3)
    assert warp_errors(source, edited, compared, flow_of(source)).edit == pytest.approx(0, abs=1e-3)


def test_pixels_that_come_out_of_the_edited_area_do_not_count():
    """The area stands still; the picture slides out of it, so that what comes out was edited in the frame before."""
    source = moving() * 0.9
    compared, edited = EVERYWHERE.clone(), source.clone()
    compared[:, :, 10:20] = False
    edited[:, :, 10:20] += 0.1
    found = warp_errors(source, edited, compared, flow_of(source))
    assert found.edit == pytest.approx(0, abs=1e-3)
    # Neither the area, nor the two columns beside it, nor those that come from outside the frame.
    assert found.share == pytest.approx((WIDTH - 10 - STEP - STEP) / WIDTH)


def test_flicker_is_the_change_that_the_source_does_not_have():
    source = moving()
    assert flicker(source, source * 0.5 + 0.1, EVERYWHERE) == pytest.approx(
        (source.diff(dim=0).abs().mean() * 0.5 / LEVEL).item(), rel=1e-4
    )
    steady = source[:1].expand_as(source)
    assert flicker(steady, steady + 0.2, EVERYWHERE) == 0


def test_nothing_to_compare_gives_no_figure():
    source = moving()
    assert flicker(source, source, ~EVERYWHERE) is None
    assert flicker(source[:1], source[:1], EVERYWHERE[:1]) is None
    assert warp_errors(source, source, ~EVERYWHERE, flow_of(source)) is None


def test_the_report_and_the_json_have_the_figures_over_time():
    source = moving() * 0.9
    measures = measure_edit(source, source + 0.02, flow=flow_of(source))
    assert "flicker: 0.00 levels of 255" in report(measures) and "warp error over" in report(measures)
    assert as_json(measures)["warp_error"] == pytest.approx(measures.warp_errors.edit)
    assert as_json(measures)["vmaf"] is None


def test_without_a_flow_the_report_says_that_none_was_given():
    source = moving()
    assert "warp error: not measured, no flow was given" in report(measure_edit(source, source))


BROKEN = "libGL.so.1: cannot open shared object file"


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Packages that are installed, and fail as their modules are imported."""

    def make(name, raises):
        (tmp_path / f"{name}.py").write_text(f"raise {raises}")
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))

    return make


def test_without_opencv_the_report_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    source = moving()
    measures = measure_edit(source, source, flow=dis_flow)
    assert "warp error: not measured, it needs opencv-python-headless" in measures.remarks
    assert as_json(measures)["warp_error"] is None and as_json(measures)["warp_share"] is None
    assert measures.likeness is not None and measures.warp_errors is None


@pytest.mark.parametrize("error", ["ImportError", "OSError", "AttributeError", "ModuleNotFoundError"])
def test_a_broken_opencv_is_a_remark_with_its_reason(broken, error):
    broken("cv2", f"{error}({BROKEN!r})")
    source = moving()
    measures = measure_edit(source, source, flow=dis_flow)
    said = f"warp error: not measured, opencv-python-headless is installed but cannot be imported: {BROKEN}"
    assert said in measures.remarks and measures.flicker == 0


def test_a_broken_ffmpeg_package_is_a_remark_with_its_reason(broken):
    broken("imageio_ffmpeg", f"ImportError({BROKEN!r})")
    source = moving()
    said = f"VMAF: not measured, imageio-ffmpeg is installed but cannot be imported: {BROKEN}"
    assert said in measure_edit(source, source, with_vmaf=True).remarks


def test_opencv_finds_the_motion_of_a_known_clip():
    pytest.importorskip("cv2")
    source = moving(step=1)
    back = dis_flow(source[1], source[0])
    inner = back[8:-8, 8:-8]
    assert inner[..., 0].median() == pytest.approx(-1, abs=0.3) and inner[..., 1].median() == pytest.approx(0, abs=0.3)
    found = warp_errors(source, source, EVERYWHERE, dis_flow)
    assert found.edit == found.source and 0.5 < found.share <= 1


@pytest.fixture
def program(monkeypatch, tmp_path):
    """A program in ffmpeg's place: it is called with a script's text."""

    def make(script):
        file = tmp_path / "ffmpeg"
        file.write_text(f"#!{sys.executable}\n{script}")
        file.chmod(0o755)
        package = SimpleNamespace(get_ffmpeg_exe=lambda: str(file))
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)

    return make


SCORE = 'import json; json.dump({"pooled_metrics": {"vmaf": {"mean": 87.5}}}, open("vmaf.json", "w"))'


def test_the_program_gets_the_source_s_pixels_where_something_might_change(program, tmp_path):
    program(f"import shutil\n{SCORE}\nfor n in ('edited', 'source'): shutil.copy(n + '.rgb', {str(tmp_path)!r})")
    source, compared = moving(), EVERYWHERE.clone()
    compared[:, :, : WIDTH // 2] = False
    assert vmaf_score(source, 1 - source, compared) == 87.5
    written = [
        torch.frombuffer(bytearray((tmp_path / f"{name}.rgb").read_bytes()), dtype=torch.uint8).view(source.shape)
        for name in ("edited", "source")
    ]
    assert torch.equal(written[0][:, :, : WIDTH // 2], written[1][:, :, : WIDTH // 2])
    assert torch.equal(written[0][:, :, WIDTH // 2 :], 255 - written[1][:, :, WIDTH // 2 :])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; sys.exit('No such filter: libvmaf')", "ffmpeg failed: No such filter: libvmaf"),
        ("import sys; sys.exit(3)", "ffmpeg failed: exit code 3"),
        ("pass", "left no score"),
        ("open('vmaf.json', 'w').write('{}')", "left no score"),
        ("import time; time.sleep(60)", "took more than 1 seconds"),
    ],
)
def test_a_program_that_fails_is_a_remark(program, monkeypatch, script, reason):
    monkeypatch.setattr(vmaf, "SECONDS_PER_FRAME", 0)
    monkeypatch.setattr(vmaf, "SECONDS_TO_START", 1 if "sleep" in script else 30)
    program(script)
    source = moving()
    assert f"VMAF: not measured, {'ffmpeg' if 'left' in reason else ''}" in report(
        measure_edit(source, source, with_vmaf=True)
    )
    with pytest.raises(NotMeasured, match=reason):
        vmaf_score(source, source, EVERYWHERE)


def test_a_full_disk_is_a_remark(program, monkeypatch):
    program(SCORE)

    def full(self, *_mode):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "open", full)
    source = moving()
    measures = measure_edit(source, source, with_vmaf=True)
    said = "VMAF: not measured, its temporary files cannot be written: No space left on device"
    assert said in measures.remarks and measures.likeness is not None


def test_temporary_files_are_gone_afterwards(program, monkeypatch, tmp_path):
    import tempfile

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    source = moving()
    for script in (SCORE, "import sys; sys.exit(1)"):
        program(script)
        measure_edit(source, source, with_vmaf=True)
        assert not list(Path(tmp_path / "temporary").iterdir())


def test_without_its_package_or_on_small_frames_vmaf_is_not_measured(monkeypatch):
    source = moving()
    with pytest.raises(NotMeasured, match="sides of at least 32 pixels"):
        vmaf_score(source[:, :24], source[:, :24], EVERYWHERE[:, :24])
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(NotMeasured, match="it needs imageio-ffmpeg"):
        vmaf_score(source, source, EVERYWHERE)


def test_ffmpegs_own_vmaf_is_near_a_hundred_for_the_source_and_falls_with_noise():
    pytest.importorskip("imageio_ffmpeg")
    source = moving()
    try:
        same = vmaf_score(source, source, EVERYWHERE)
    except NotMeasured as reason:
        pytest.skip(str(reason))
    noisy = (source + 0.2 * torch.randn(source.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert same > 90 and vmaf_score(source, noisy, EVERYWHERE) < same - 20
    assert vmaf_score(source, noisy, ~EVERYWHERE) == pytest.approx(same)
