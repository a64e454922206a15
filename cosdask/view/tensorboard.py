"""A run's curves for TensorBoard."""

from __future__ import annotations

from typing import Any

from cosdask.errors import ConfigError
from cosdask.events import Event, Output, Progress, Restarted, RunStarted, Validation, Warned
from cosdask.storage import local_path
from cosdask.view.caffe_lines import describe_run

#: URLs that tensorboardX writes to; of others it would make local folders
_WRITTEN = ("s3://", "gs://")


class TensorBoard:
    """Writes losses, learning rate, speed and validations as TensorBoard's event files.

    Args:
        folder: local folder, or a URL that tensorboardX writes to.

    Raises:
        ConfigError: where the package tensorboardX is not installed, or cannot write to the folder.
    """

    def __init__(self, folder: str) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            message = "TensorBoard's files need the package tensorboardX: pip install 'cosdask[tensorboard]'"
            raise ConfigError(message, option="tensorboard") from error
        here = local_path(folder)
        if here is None and not folder.startswith(_WRITTEN):
            raise ConfigError(
                f"{folder}: TensorBoard's files can be written to local folders, s3:// and gs:// only; leave out "
                "--tensorboard, or give a -model that lies there",
                option="tensorboard",
            )
        self._writer: Any = SummaryWriter(folder if here is None else str(here))

    def handle(self, event: Event) -> None:
        """Write the event's numbers, at its iteration and time."""
        match event:
            case RunStarted():
                self._writer.add_text("run", describe_run(event), event.start_iteration)
            case Progress():
                self._progress(event)
            case Validation():
                prefix = "validation" if not event.net else f"validation{event.net}"
                self._outputs(prefix, event.outputs, event.iteration, event.time)
            case Restarted():
                self._writer.add_text("restarts", event.reason, event.iteration)
            case Warned():
                self._writer.add_text("warnings", event.message)

    def _progress(self, event: Progress) -> None:
        if event.rank_loss is not None:
            self._outputs("ranks", {f"loss_{event.rank}": event.rank_loss}, event.iteration, event.time)
        if event.rank:
            return
        found: dict[str, Output] = {
            "loss": event.loss,
            "lr": event.lr,
            "rows_per_second": event.rows_per_second,
            "input_share": event.input_share,
            "communication_share": event.communication_share,
        }
        if event.gradient_norm is not None:
            found["gradient_norm"] = event.gradient_norm
        self._outputs("train", {**event.outputs, **found}, event.iteration, event.time)

    def _outputs(self, prefix: str, values: dict[str, Output], iteration: int, time: float) -> None:
        for name, value in values.items():
            parts = enumerate(value) if isinstance(value, list) else [("", value)]
            for place, number in parts:
                tag = f"{prefix}/{name}{place if place == '' else f'_{place}'}"
                self._writer.add_scalar(tag, number, iteration, walltime=time)

    def close(self) -> None:
        """Write what waits."""
        self._writer.close()
