"""Jobs of a Slurm cluster as Dask workers: a settings file, and the cluster that it asks for (dask-jobqueue)."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hyperdecode.errors import UserError
from hyperdecode.study.reading import read_regular

__all__ = ["SlurmSettings", "read_slurm", "slurm_cluster"]

LARGEST_FILE = 2**16
Line = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\n\r\x00]*$")]
Word = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\s\x00]*$")]


class SlurmSettings(BaseModel):
    """What each Slurm job asks for, and how many there are.

    Attributes
    ----------
    jobs : int
        How many jobs; each is one worker that does one step at a time.
    cores : int
        Cores a job; linear algebra on it uses as many threads.
    memory_gb : float
        Memory a job, in GB. A worker that takes more is ended by Dask, and its step is done again.
    hours : float
        Wall time a job. Jobs that end before the study does are asked for anew.
    partition, account : str
        As `sbatch` takes them.
    directives : list of str
        Further `sbatch` options, ``"--gres=gpu:1"`` say.
    prologue : list of str
        Lines of shell before the worker starts, ``"module load cuda"`` say.
    interface : str
        Network interface that nodes talk over, ``"ib0"`` say.
    scratch : str
        Folder on the nodes for what Dask spills.
    logs : str
        Folder for what jobs print, from where the command is given.
    python : str
        Python of the jobs. Default: the one that runs this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    jobs: int = Field(default=4, ge=1, le=1000)
    cores: int = Field(default=4, ge=1, le=1024)
    memory_gb: float = Field(default=16.0, ge=1, le=100_000)
    hours: float = Field(default=4.0, gt=0, le=24 * 365)
    partition: Word = ""
    account: Word = ""
    directives: list[Line] = Field(default_factory=list, max_length=100)
    prologue: list[Line] = Field(default_factory=list, max_length=100)
    interface: Word = ""
    scratch: Line = ""
    logs: Line = "slurm-logs"
    python: Line = ""

    @property
    def wall_time(self) -> str:
        """Wall time as `sbatch` takes it, ``hours:minutes:seconds``."""
        seconds = max(60, round(self.hours * 3600))
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def read_slurm(path: Path) -> SlurmSettings:
    """Read the settings of Slurm jobs from a TOML file.

    Raises
    ------
    UserError
        When the file cannot be read, or holds what is no setting.
    """
    try:
        given: dict[str, Any] = tomllib.loads(read_regular(path, LARGEST_FILE).decode("utf-8"))
        return SlurmSettings.model_validate(given)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): give a TOML file of Slurm settings"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = ", ".join(SlurmSettings.model_fields)
        raise UserError(f"{path}: {name}: {first['msg']}; settings are {known}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no TOML file ({str(error)[:200]}): see docs/cluster.md for one") from None


@contextmanager
def slurm_cluster(settings: SlurmSettings) -> Iterator[Any]:
    """Submit the jobs; yield a `dask_jobqueue.SLURMCluster` whose scheduler runs in this process.

    Raises
    ------
    UserError
        When dask-jobqueue is not installed, or there is no ``sbatch`` here.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise UserError("--slurm needs dask-jobqueue: pip install 'hyperdecode[slurm]'") from error
    if shutil.which("sbatch") is None:
        raise UserError("--slurm needs the command sbatch, which is not on PATH: run on a login node of the cluster")
    asked = {
        "queue": settings.partition,
        "account": settings.account,
        "interface": settings.interface,
        "local_directory": settings.scratch,
        "log_directory": settings.logs,
    }
    cluster = SLURMCluster(
        cores=settings.cores,
        processes=1,
        memory=f"{settings.memory_gb:g}GB",
        walltime=settings.wall_time,
        job_extra_directives=settings.directives,
        job_script_prologue=settings.prologue,
        python=settings.python or sys.executable,
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
        job_name="hyperdecode",
        **{name: value for name, value in asked.items() if value},
    )
    with cluster:
        try:
            cluster.scale(jobs=settings.jobs)
        except RuntimeError as error:
            raise UserError(f"sbatch refused the jobs: {' '.join(str(error).split())[-300:]}") from error
        yield cluster
