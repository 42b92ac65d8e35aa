import sys
from pathlib import Path

for folder in ("algorithms", "train"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
