"""Pictures made by hand, and files of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(i: int, width: int = 20, height: int = 16) -> Image.Image:
    """A picture that no other number gives."""
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, form: str = "png") -> bytes:
    """The bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def write_rows(
    path: Path, numbers: list[int], labels: list | None, *, column: str = "image", label: str = "label", group: int = 3,
    names: list[str] | None = None, features: dict | None = None,
) -> Path:  # fmt: skip
    """A Parquet file as the Hugging Face library writes it."""
    cells = [{"bytes": encoded(picture(number)), "path": f"{number}.png"} for number in numbers]
    columns = {column: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        columns[label] = pa.array(labels)
    table = pa.table(columns)
    if features is None and names is not None:
        features = {column: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path
