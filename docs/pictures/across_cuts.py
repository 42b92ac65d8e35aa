"""One picture for all cuts, or for some arms, of a sweep: originals, what an attack recovered of each run, the blind guess.

    python docs/pictures/across_cuts.py sweeps/photos --attack ridge --out docs/pictures/photos.png
    python docs/pictures/across_cuts.py sweeps/defences13 --attack decoder --out docs/pictures/defended.png \\
        --arms none "2 bits" "gaussian 2" "shredder 3" "1 bit" shuffle
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from attacks import picture


def arms(sweep: Path) -> dict[str, str]:
    """Run -> the name of its arm."""
    jobs = json.loads((sweep / "jobs.json").read_text(encoding="utf-8"))["jobs"]
    return {job["key"]: job["setting"]["arm"] for job in jobs if job["sort"] == "train" and "arm" in job["setting"]}


def main() -> None:
    """Read the sweep's attack results and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--attack", default="ridge")
    parser.add_argument("--images", type=int, default=10, help="columns; the targets that differ most from their neighbours are taken")
    parser.add_argument("--arms", nargs="+", default=[], help="rows, by name of the arm; without it all cuts")
    parser.add_argument("--out", type=Path, default=Path("across_cuts.png"))
    args = parser.parse_args()
    paths = args.sweep.glob(f"runs/*/attacks/{args.attack}-*/result.json")
    found = sorted(((json.loads(p.read_text(encoding="utf-8")), p.parent) for p in paths), key=lambda pair: pair[0]["cut"])
    if not found:
        parser.error(f"{args.sweep} holds no result of the attack {args.attack}")
    if args.arms:
        of = arms(args.sweep)
        named = {name: pair for pair in found if (name := of.get(pair[1].parents[1].name)) in args.arms}
        if missing := [name for name in args.arms if name not in named]:
            parser.error(f"{args.sweep} holds no result of the attack {args.attack} on the arm {missing[0]}")
        found = [named[name] for name in args.arms]
    labels = args.arms or [f"cut {result['cut']}" for result, _ in found]
    files = [{k: v.float() / 255 if v.dtype == torch.uint8 else v.float() for k, v in
              load_file(folder / "reconstructions.safetensors").items()} for _, folder in found]
    targets = files[0]["targets"]
    if not all(torch.equal(f["targets"], targets) for f in files):
        parser.error("the runs were attacked on different targets")
    busy = targets.std((2, 3)).mean(1)  # plain sky looks recovered at any cut
    shown = busy.argsort(descending=True)[: 3 * args.images : 3].sort().values
    rows = [picture.Row("original", targets[shown])]
    for label, (result, _), file in zip(labels, found, files, strict=True):
        rows.append(picture.Row(f"{label}\nR2 {result['r2']:.2f}", file["reconstructions"][shown]))
    rows.append(picture.Row("blind guess\nmean of own images", files[0]["blind"].expand(len(shown), -1, -1, -1)))
    title = f"cut {found[0][0]['cut']}, defence by defence" if args.arms else "cut by cut"
    picture.save(picture.draw(rows, title=f"{args.attack}: what the server recovers from the smashed data, {title}"), args.out)


if __name__ == "__main__":
    main()
