"""Images to evaluate, recalibrate and train networks on: folders, Parquet in the Hugging Face layout, torchvision's data sets.

    photos/                              one folder for each class; pictures side by side are unlabelled
    train.parquet  data/  "x-*.parquet"  rows with image{bytes, path} (or bytes) and an integer label; one file, a folder, a glob
    torchvision:CIFAR10@FOLDER           a data set of torchvision's that lies in FOLDER; nothing is ever downloaded

Pictures are decoded when they are asked for, in the workers of a loader.
"""

from __future__ import annotations

from filterdb.images.batches import batches, transform
from filterdb.images.choice import Images
from filterdb.images.image_set import ImageSet
from filterdb.images.open import open_images

__all__ = ["ImageSet", "Images", "batches", "image_set", "open_images", "transform"]
