"""Images in a folder, read one by one: `flowers/daisy/1.jpg` is of the class `daisy`."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.data import datafiles, datalock

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class ImageFolder:
    """A source of the images in a folder of the data; each folder in it is a class.

    An image is an array of uint8, of shape (height, width, 3) or (height, width, 1). Its file is
    compared with what `data.lock`, or the list that it names, says of it each time it is read.
    """

    def __init__(
        self, folder: str, size: tuple[int, int] | None = None, *, grey: bool = False
    ) -> None:
        """Finds the images of a folder; none of them is read.

        Args:
            folder: the path of the folder in the data folder.
            size: the height and the width, in pixels, that each image is scaled to; None: the
                images are of one size.
            grey: whether an image has one channel, and not three.

        Raises:
            BadInput: the folder is not in `data.lock`, or has no image.
        """
        from PIL import Image

        Image.init()  # Not in the threads that read.
        self._formats = Image.registered_extensions()
        self._listed = datafiles.listed(folder)
        self._size, self._grey = size, grey
        names = [name for name in self._listed.digests if name.lower().endswith(SUFFIXES)]
        if not names:
            raise BadInput(f"{self._listed.folder}: no image in it")
        self.keys = np.array(sorted(names))
        """The paths of the images in the folder, of shape (samples,)."""
        classes = [PurePosixPath(name).parts[0] for name in self.keys if "/" in name]
        whole = len(classes) == len(names)
        self.class_names = sorted(set(classes)) if whole else []
        """The names of the folders; none if an image is in none."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.labels = np.array([numbers[name] for name in classes], np.int32) if whole else None
        """The class of each image, of shape (samples,); None if an image is in no folder."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int, /) -> np.ndarray:
        from PIL import Image

        name = str(self.keys[place])
        content = (self._listed.folder / name).read_bytes()
        found, expected = sha256(content), self._listed.digests[name]
        if found != expected:
            raise BadInput(
                f"{datalock.unequal(found, expected)}; put the locked file back, or lock this one: "
                f"repro data add {self._listed.folder / name}"
            )
        with self._opened(content, PurePosixPath(name).suffix.lower()) as image:
            mode = "L" if self._grey else "RGB"
            made: Image.Image = image if image.mode == mode else image.convert(mode)
            if self._size is not None and made.size != self._size[::-1]:
                made = made.resize(self._size[::-1], Image.Resampling.BILINEAR)
            array = np.asarray(made)
        return array[..., None] if self._grey else array

    def _opened(self, content: bytes, suffix: str) -> Image.Image:
        """Opens an image in the format that its name says, or else in any: that takes longer."""
        from PIL import Image, UnidentifiedImageError

        try:
            return Image.open(io.BytesIO(content), formats=[self._formats[suffix]])
        except UnidentifiedImageError:
            return Image.open(io.BytesIO(content))
