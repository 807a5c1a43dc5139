"""A finished run of a linear network, whose distances are known, made without any training."""

from functools import cache
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

from lipbench import attacks, certify
from lipbench.data import Dataset, digits
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.files import fingerprint, write_json, write_text
from lipbench.results import read_bounds, write_bounds, write_manifest, write_summary
from lipbench.runs.identity import described
from lipbench.runs.network import build, save

IMAGES = 6
NETWORK = {"dataset": {"_target_": "lipbench.data.digits", "keep": [0, 8]}, "model": {}}
RECIPE = {
    "model": {"_target_": "lipbench.models.mlp", "widths": []},
    "constraint": {"_target_": "torch.nn.Identity", "_partial_": True},
    "shape": [1, 8, 8],
    "classes": 2,
}


@cache
def dataset() -> Dataset:
    return digits(keep=(0, 8))


def linear() -> nn.Module:
    """f(x) = w (x - m): w the difference of the means of the classes, of length 1, m between them."""
    train = dataset().train
    means = [(train.images[train.labels == label].float() / 255).mean(0).flatten() for label in (0, 1)]
    model = build(RECIPE, baked=True)
    (head,) = [module for module in model.modules() if isinstance(module, nn.Linear)]
    direction = (means[1] - means[0]) / (means[1] - means[0]).norm()
    with torch.no_grad():
        head.weight.copy_(direction[None])
        head.bias.fill_(-direction @ (means[0] + means[1]) / 2)
    return model.eval()


def make_linear_run(root: Path) -> Path:
    """A certificate of the whole test set, and DeepFool and FGM on the first images."""
    folder = root / "digits08" / "linear" / "default" / "0"
    model, test = linear(), dataset().test
    save(model, RECIPE, folder)
    x, y = test.images[:IMAGES], test.labels[:IMAGES]
    network = fingerprint(NETWORK)
    found = [
        (certify_images(model, test.images, test.labels, certify), None),
        (attack_images(model, x, y, attacks.deepfool, "deepfool"), IMAGES),
        (attack_images(model, x, y, attacks.fgm, "fgm"), IMAGES),
    ]
    for judged, images in found:
        made_of = {"network": network, "method": judged.name, "options": {}, "images": images}
        write_bounds(folder, judged.table, made_of)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(NETWORK))
    write_json(folder / "data.json", described(dataset()))
    write_text(folder / "costs.csv", "method,seconds,passes\ndeepfool,0.5,9\n")
    write_summary(folder, {"lipschitz": 1.0, "flags": []}, {"deepfool": 0.5})
    write_manifest(folder, "identity")
    assert len(read_bounds(folder))
    return folder
