"""The examples of docs/sweeps.md: the sweep file is legal, and the cluster's files start a sweep whose parts are whole."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from ssl_split.sweep import plan
from ssl_split.sweep.__main__ import overrides, parser
from ssl_split.sweep.execute import STOP_SECONDS

ROOT = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    """Code of the page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def parsed(command: str) -> Any:
    """The sweep's own flags in a shell command; the others must be fields of a run, and the file must exist."""
    words = shlex.split(command.replace("\\\n", " "))
    known, rest = parser().parse_known_args(words[words.index("ssl_split.sweep") + 1 :])
    assert overrides(rest).keys() == {"data_dir"}
    assert (ROOT / known.file).is_file()
    return known


def test_the_file_is_legal(tmp_path: Path) -> None:
    """2 cuts for mocosfl and 3 for monacosfl, 2 betas, 3 arms, the third of them at cut 13 alone, which mocosfl does not have."""
    (tmp_path / "trial.yaml").write_text(blocks("yaml")[0])
    sweep = plan.read(tmp_path / "trial.yaml", overrides={"seed": 0})
    assert len(sweep.cells) == 2 * (2 * 5 + 1)
    assert len(sweep.stages) == 6


def test_the_slurm_script_gives_each_task_its_part() -> None:
    (script,) = blocks("bash")
    assert "#SBATCH --array=1-16" in script
    known = parsed(script[script.index("srun"):])
    assert (known.shard, known.gpus) == ("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "0")


def test_the_kubernetes_manifest_is_whole() -> None:
    """Every pod has a part, all write into one volume, and there is time to write checkpoints when a pod is stopped."""
    claim, job = yaml.safe_load_all(blocks("yaml")[1])
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"  # as backoffLimitPerIndex needs it
    assert pod["terminationGracePeriodSeconds"] > STOP_SECONDS
    (volume,), (container,) = pod["volumes"], pod["containers"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": container["workingDir"]}]
    assert container["command"] == ["sh", "-c"]
    (command,) = container["args"]
    assert "\n" not in command.strip()
    assert command.startswith("exec ")  # signals reach the sweep, not a shell
    known = parsed(command)
    assert known.out.startswith(container["workingDir"])
    assert known.shard == f"$((JOB_COMPLETION_INDEX + 1))/{spec['completions']}"
