"""Restore one image with the command, and keep its report or why it was refused."""

import json
import subprocess
from pathlib import Path

REFUSED = 2  # exit code: nothing was begun and nothing written

job = snakemake  # noqa: F821  # Snakemake defines it
Path(job.params.image).parent.mkdir(parents=True, exist_ok=True)
command = ["napari-dip", job.params.task, job.input[0], "-o", job.params.image, "--quiet"]
command += ["--report", job.output.record, "--overwrite", "--threads", str(job.threads)]
done = subprocess.run(
    [*command, *map(str, job.params.options)], capture_output=True, text=True, check=False
)
Path(job.log[0]).write_text(done.stdout + done.stderr, encoding="utf-8")
if done.returncode == REFUSED:
    refusal = {"refused": " ".join(done.stderr.split())}
    Path(job.output.record).write_text(json.dumps(refusal), encoding="utf-8")
elif done.returncode:
    raise SystemExit(done.stderr)
