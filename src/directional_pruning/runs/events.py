"""TensorBoard events of a training, written at once: its own writer's thread reports no failed write."""

import io
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import append
from ..run_folder import Record

__all__ = ["event_writer"]


def event_writer(folder: Path) -> Callable[[Record], None]:
    """A function that writes the numbers of an epoch's record as events; what the folder held before is deleted."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import scalar

    event: Any = vars(event_pb2)["Event"]  # protobuf defines it at run time
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"

    def write(*events: Any) -> None:
        data = io.BytesIO()
        for each in events:
            RecordWriter(data).write(each.SerializeToString())
        append(path, data.getvalue())

    def write_record(record: Record) -> None:
        if "epoch" in record:
            names = record.keys() - {"epoch"}
            step, now = record["epoch"], time.time()
            write(*(event(wall_time=now, step=step, summary=scalar(name, record[name])) for name in names))

    write(event(wall_time=time.time(), file_version="brain.Event:2"))
    return write_record
