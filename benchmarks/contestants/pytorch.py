"""PyTorch, tuned as its guide recommends: channels last, fused Adam, images in device memory."""

import time

import torch
from torch import Tensor, nn

from benchmarks.contestants import AIRBENCH, Images, Settings

EVAL_BATCH_SIZE = 200


def mlp(num_classes: int, image_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(3 * image_size**2, 1000), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Linear(1000, 512), nn.ReLU(), nn.Dropout(0.2)),
        nn.Linear(512, num_classes),
    )


def cnn(num_classes: int, image_size: int) -> nn.Sequential:
    def block(features_in: int, features: int) -> tuple[nn.Module, ...]:
        # padding one row and one column at the end keeps the size with a 2x2 kernel
        return nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(features_in, features, 2), nn.ReLU(), nn.MaxPool2d(2)

    return nn.Sequential(
        *block(3, 16),
        *block(16, 32),
        *block(32, 64),
        *(nn.Dropout(0.3), nn.Flatten(), nn.Linear(64 * (image_size // 8) ** 2, 500), nn.ReLU()),
        *(nn.Dropout(0.4), nn.Linear(500, num_classes)),
    )


def alexnet(num_classes: int, _: int) -> nn.Sequential:
    def norm(features: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(features, eps=1e-3, momentum=0.01)

    return nn.Sequential(
        *(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 96, 3, 2), nn.ReLU(), nn.MaxPool2d(2), norm(96)),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2), norm(256)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), norm(256)),
        nn.Flatten(),
        *(nn.Linear(256, 4096), nn.ReLU(), nn.Dropout(0.4)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.4)),
        nn.Linear(4096, num_classes),
    )


def airbench94(num_classes: int, _: int) -> nn.Sequential:
    def conv(features_in: int, features: int) -> nn.Conv2d:
        return nn.Conv2d(features_in, features, 3, padding=1, bias=False)

    def norm(features: int) -> nn.BatchNorm2d:
        layer = nn.BatchNorm2d(features, eps=1e-12, momentum=0.4)
        layer.weight.requires_grad = False
        return layer

    def group(features_in: int, features: int) -> tuple[nn.Module, ...]:
        first = conv(features_in, features), nn.MaxPool2d(2), norm(features), nn.GELU()
        return *first, conv(features, features), norm(features), nn.GELU()

    whiten = nn.Conv2d(3, 24, 2)
    whiten.weight.requires_grad = False
    groups = (*group(24, 64), *group(64, 256), *group(256, 256))
    return nn.Sequential(
        whiten, nn.GELU(), *groups, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, num_classes, bias=False)
    )


# called with the number of classes and the size of the images; the last two are for 32x32 images
NETWORKS = {"mlp": mlp, "cnn": cnn, "alexnet": alexnet, AIRBENCH: airbench94}


class PyTorch:
    """A plain training loop on tensors in device memory."""

    def __init__(self, network: str, images: Images, settings: Settings, *, compiled: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = settings.batch_size
        self.eval_batch_size = settings.eval_batch_size or EVAL_BATCH_SIZE
        self.is_bfloat16 = settings.precision == "bfloat16"
        self.train_images, self.test_images = self._place(images.train_images), self._place(images.test_images)
        self.train_labels = torch.from_numpy(images.train_labels).long().to(self.device)
        self.test_labels = torch.from_numpy(images.test_labels).long().to(self.device)
        model = NETWORKS[network](settings.num_classes, images.train_images.shape[1])
        self.model: nn.Module = model.to(self.device, memory_format=torch.channels_last)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.num_parameters = sum(parameter.numel() for parameter in trained)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(trained, 1e-2, momentum=0.85, nesterov=True, fused=True)
            if network == AIRBENCH
            else torch.optim.Adam(trained, 1e-3, eps=1e-7, fused=True)
        )
        self.loss = nn.CrossEntropyLoss()
        if compiled:  # reduce-overhead uses CUDA graphs
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self.model = torch.compile(self.model, mode=mode)
        start = time.perf_counter()
        self.train(1)
        self.compile_seconds = time.perf_counter() - start

    def _place(self, images: object) -> Tensor:
        """[N, H, W, C] uint8 -> [N, C, H, W] float32 in [0, 1], channels last in memory."""
        return (torch.tensor(images).to(self.device).float() / 255).permute(0, 3, 1, 2)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bfloat16):
            return self.model(images)

    def train(self, num_steps: int) -> None:
        self.model.train()
        loss = torch.zeros(())
        for step in range(num_steps):
            per_epoch = len(self.train_labels) // self.batch_size
            if step % per_epoch == 0:
                order = torch.randperm(len(self.train_labels), device=self.device)
            rows = order[step % per_epoch * self.batch_size :][: self.batch_size]
            loss = self.loss(self._logits(self.train_images[rows]), self.train_labels[rows])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        assert torch.isfinite(loss)  # waits for the device

    def evaluate(self) -> float:
        self.model.eval()
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        splits = (tensor.split(self.eval_batch_size) for tensor in (self.test_images, self.test_labels))
        with torch.no_grad():
            for images, labels in zip(*splits, strict=True):
                correct += (self._logits(images).argmax(-1) == labels).sum()
        return int(correct) / len(self.test_labels)

    def peak_device_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


def build(
    network: str, images: Images, settings: Settings, *, compiled: bool = False, flush_denormals: bool = False
) -> PyTorch:
    """Adam's moments of a dead unit decay to denormal numbers, which are slow on a CPU unless they are flushed to zero.

    XLA and TensorFlow flush them; PyTorch does so only with `flush_denormals`.
    """
    torch.set_flush_denormal(flush_denormals)
    torch.backends.cudnn.benchmark = True  # as XLA, which also times the kernels that it chooses from
    if settings.precision:
        torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
    return PyTorch(network, images, settings, compiled=compiled)
