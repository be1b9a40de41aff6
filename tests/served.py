"""A classifier that needs no training, pictures for it, and a client of the application that serves it."""

import asyncio
import io

import httpx
import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tiny import Tiny

from cifar_flax.inference import Classifier
from cifar_flax.serving.app import make_app

SHAPE = (8, 8, 3)
RUN = {
    "status": "done",
    "experiment": "tiny",
    "dataset": "shades",
    "test_accuracy": 0.875,
    "class_names": ["dark", "middle", "light", "2"],
    "image_shape": SHAPE,
}


def tiny_classifier(**changes):
    """An untrained network for images [8, 8, 3] of four classes, one at a time."""
    model = Tiny(num_classes=4)
    state = model.init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32), train=False)
    config = ConfigDict({"eval_batch_size": 1})
    return Classifier(config, RUN | changes, 1, model, state["params"], state["batch_stats"])


def picture(format="png", side=64, seed=0):
    """The file of a random picture."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(content, format)
    return content.getvalue()


class Client:
    """Sends requests to the application without a network."""

    def __init__(self, classifier, host="127.0.0.1"):
        self._transport = httpx.ASGITransport(make_app(classifier, host), raise_app_exceptions=False)

    def __call__(self, method, path, **keywords):
        async def send():
            async with httpx.AsyncClient(transport=self._transport, base_url="http://127.0.0.1:8000") as client:
                return await client.request(method, path, **keywords)

        return asyncio.run(send())

    def predict(self, content=None, **keywords):
        return self("POST", "/predict", content=content, **keywords)
