"""``alignmix-timm`` where DDP takes no device_ids: timm's train.py gives them on the CPU too, which DDP refuses."""

from typing import Any

from torch.nn.parallel import DistributedDataParallel

from alignmix_timm.timm_train import main

_init = DistributedDataParallel.__init__


def _without_devices(self: DistributedDataParallel, *args: Any, device_ids: object = None, **options: Any) -> None:
    _init(self, *args, **options)


if __name__ == "__main__":
    DistributedDataParallel.__init__ = _without_devices
    main()
