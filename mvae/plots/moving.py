"""The pieces of the lessons that move: each is a table first, and works without a kernel. See `mvae.moving`."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence

from mvae.moving import Moving, steps, table

_BITS_STYLE = """
.mvae-bit-flip .mvae-bits{font:12px/2 ui-monospace,Menlo,Consolas,monospace;margin:.3em 0}
.mvae-bit-flip .mvae-bits span{border:1px solid #8888;padding:.1em .15em}
.mvae-bit-flip .mvae-bits .part{border:0}
.mvae-bit-flip .mvae-bits .on{outline:3px solid currentColor;font-weight:bold}
"""
_FILES_STYLE = ".mvae-kept-files tr.later{opacity:.4}"


def bit_flip(value: float) -> Moving:
    """What becomes of a weight, a float32 of four bytes, when one of its 32 bits is flipped: a row a bit.

    Bit 31 is the sign, 30 to 23 are the exponent, 22 to 0 the fraction (IEEE 754, binary32). The bytes are those of
    a file in little-endian order, as nearly all are: byte 0 comes first.

    Args:
        value: the weight; rounded to the nearest float32.

    Raises:
        OverflowError: too large for a float32.
    """
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    weight = _float32(bits)
    rows = []
    for bit in range(31, -1, -1):
        flipped, byte = _float32(bits ^ 1 << bit), bits >> bit // 8 * 8 & 0xFF
        change = f"byte {bit // 8}: {byte:#04x} → {byte ^ 1 << bit % 8:#04x}"
        times = f"{flipped / weight:.7g}" if weight and math.isfinite(flipped / weight) else "–"
        rows.append((f"{bit}", _part(bit), change, f"{weight:.7g} → {flipped:.7g}", times))
    boxes = []
    for row, bit in enumerate(range(31, -1, -1)):
        part = f'<span class="part">{_part(bit)}</span> ' if bit in (31, 30, 22) else ""
        boxes.append(f'{part}<span data-row="{row}">{bits >> bit & 1}</span>')
    picture = f'<div class="mvae-bits">{" ".join(boxes)}</div>'
    head = ("bit", "part", "in the file", "the weight", "times as large")
    title = f"The 32 bits of {weight:.7g}, and what one flipped bit makes of it"
    return steps("bit-flip", title, head, rows, picture, _BITS_STYLE, at=1)


def _float32(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def _part(bit: int) -> str:
    return "sign" if bit == 31 else "exponent" if bit > 22 else "fraction"


def kept_files_timeline(losses: Sequence[float], keep: Sequence[int] = (0, 1, 2, 3, -1)) -> Moving:
    """The epochs whose files are on the disk after each epoch, for several values of `save_top_k`; lower is better.

    As `ModelCheckpoint` does it (`check_monitor_top_k`): a file is written if there are fewer than k, or if the loss
    is lower than the highest that is kept; then the file of the highest is deleted.

    Args:
        losses: [epochs], what is monitored.
        keep: values of `save_top_k`; -1 keeps every file.
    """
    on_disk: dict[int, list[int]] = {k: [] for k in keep}
    rows = []
    for epoch, loss in enumerate(losses):
        cells = []
        for k, kept in on_disk.items():
            before = set(kept)
            worst = max(kept, key=losses.__getitem__, default=epoch)
            if k < 0 or len(kept) < k or (k and loss < losses[worst]):
                kept.append(epoch)
            if len(kept) > k >= 0:
                kept.remove(worst)
            gone = " ".join(f"−{old}" for old in sorted(before - set(kept)))
            cells.append(" ".join(["+" * (one not in before) + str(one) for one in kept] + [gone] * bool(gone)) or "–")
        rows.append((f"{epoch}", f"{loss:.4f}", *cells))
    title = "Epochs whose files are on the disk after each epoch (+ just written, − just deleted)"
    return steps("kept-files", title, ("epoch", "val_loss", *(f"save_top_k={k}" for k in keep)), rows, "", _FILES_STYLE)


def beta_sliders(settings: Mapping[str, tuple[float, int, int]], epochs: int) -> Moving:
    """β against the epoch, with a slider for each of its three settings, which start at the first of `settings`.

    Args:
        settings: label → (`kl_max_weight`, `kl_anneal_steps`, steps in an epoch): a dashed line and a row for each.
        epochs: how far to draw.
    """
    top = max(1.0, *(most for most, _, _ in settings.values()))
    rows, lines, numbers = [], "", ""
    for number, (label, (most, anneal, each)) in enumerate(settings.items(), start=1):
        end = most * min(1, epochs * each / anneal)
        row = (f"{number}", label, f"{most:g}", f"{anneal:,}", f"{each:,}", f"{anneal // each:,}", f"{end:.3f}")
        rows.append(row)
        points = _ramp(most, anneal, each, epochs, top)
        lines += f'<polyline points="{points}" stroke-dasharray="{2 * number} 4"/>'
        numbers += f'<text x="626" y="{174 - 150 * end / top:.1f}">{number}</text>'
    start = next(iter(settings.values()))
    picture = (
        '<div class="mvae-controls"></div><svg viewBox="0 0 640 200" fill="none" stroke="currentColor" role="img" '
        f'aria-label="β against the epoch: a straight line up from 0, then flat"><path d="M40 12V170H620"/>{lines}'
        f'<polyline class="live" points="{_ramp(*start, epochs, top)}" stroke-width="3"/>'
        f'<g fill="currentColor" stroke="none" font-size="11">{numbers}<text x="4" y="24">β = {top:g}</text>'
        '<text x="28" y="174">0</text><text x="36" y="188">epoch 0</text>'
        f'<text x="560" y="188">epoch {epochs:,}</text></g></svg>'
    )
    head = ("line", "settings", "β_max", "annealing steps", "steps an epoch", "β full in epoch", f"β, epoch {epochs:,}")
    highest = [max(part) for part in zip(*settings.values(), strict=True)]
    script = (
        f"const epochs = {epochs}, top = {top}, highest = {json.dumps(highest)}, start = {json.dumps(start)};{_BETA}"
    )
    return Moving("beta", "β against the epoch, for your settings", picture + table(head, rows), script)


def _ramp(most: float, anneal: int, each: int, epochs: int, top: float) -> str:
    """The three corners of β against the epoch, as SVG points; `_BETA` draws the same."""
    full = min(epochs, anneal / each)
    high = 170 - 150 * most * min(1, epochs * each / anneal) / top
    return f"40,170 {40 + 580 * full / epochs:.1f},{high:.1f} 620,{high:.1f}"


_BETA = """
const live = root.querySelector(".live"), controls = root.querySelector(".mvae-controls");
const status = document.createElement("p");
status.className = "mvae-status";
status.setAttribute("aria-live", "polite");
controls.after(status);
const ranges = [["β_max", 0.05, top, 0.05], ["annealing steps", 100, 1.5 * highest[1], 100],
  ["steps an epoch", 1, 2 * highest[2], 1]];
const sliders = ranges.map(([name, min, max, step], i) => {
  const label = document.createElement("label"), slider = document.createElement("input");
  Object.assign(slider, {type: "range", min, max, step, value: start[i]});
  label.append(name + " ", slider, " ", document.createElement("output"));
  controls.append(label);
  slider.oninput = draw;
  return slider;
});
function draw() {
  const [most, anneal, each] = sliders.map(slider => +slider.value);
  const end = most * Math.min(1, epochs * each / anneal), high = 170 - 150 * end / top;
  const full = Math.min(epochs, anneal / each);
  live.setAttribute("points", `40,170 ${40 + 580 * full / epochs},${high} 620,${high}`);
  sliders.forEach(slider => { slider.nextElementSibling.value = (+slider.value).toLocaleString("en"); });
  status.textContent = `β is full in epoch ${Math.floor(anneal / each).toLocaleString("en")}; ` +
    `after ${epochs} epochs it is ${end.toFixed(3)}.`;
}
draw();
"""
