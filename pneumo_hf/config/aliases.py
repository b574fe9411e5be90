"""The one table of former option names: recipes of version 0.1 load, with one warning."""

import logging

from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)

RENAMED = {
    "fine_tuned_share": "wise_ft_alpha",
    "layer_decay": "layer_lr_decay",
    "validation": "validation_split",
    "unfreeze_layers": "trainable_layers",
    "sampling": "sampler",
    "calibration": "calibration_data",
    "half_precision_weights": "save_dtype",
    "step_epochs": "lr_scheduler_type",
}
AUGMENTATION = {  # options of their own then, `augmentation_kwargs` now; what was not said had the values of `strong`
    "crop_scale": "crop_scale",
    "rotation": "rotation",
    "shift": "translate",
    "jitter": "intensity_jitter",
    "blur": "blur_prob",
    "horizontal_flip": "horizontal_flip_prob",
    "coarsen": "downscale_prob",
    "noise": "gaussian_noise_prob",
    "frame_mix": "border_swap_prob",
    "washed_out": "outlier_exposure_prob",
}
REMOVED = {  # and what there is in its place
    "style_mix": "leave it out",
    "mixup": "leave it out",
    "subtype_weight": "leave it out",
    "unfreeze_blocks": "count layers with weights in trainable_layers",
}
VALUES = {
    ("sampler", "all"): "random",
    ("calibration_data", "spoilt"): "corrupted",
    ("trainable_layers", -1): "all",
    ("trainable_layers", 0): "head",
    ("save_dtype", True): "float16",
    ("save_dtype", False): "float32",
}


def translate(recipe: dict, path: str) -> dict:
    """Replace the former names and values of a recipe by today's, and warn once if there are any.

    Raises:
        InputError: the recipe uses an option that is gone, or mixes former names with `augmentation_kwargs`.
    """
    former = [key for key in recipe if key in RENAMED or key in AUGMENTATION or key in REMOVED]
    if not former:
        return recipe
    if gone := [key for key in former if key in REMOVED and recipe[key]]:
        raise InputError(f"{path}: {gone[0]} was removed in version 0.2: {REMOVED[gone[0]]}")
    if "augmentation_kwargs" in recipe and (mixed := [key for key in former if key in AUGMENTATION]):
        raise InputError(f"{path}: {mixed[0]} is {new_name(mixed[0])} since version 0.2; move it there")
    new: dict = {"augmentation": "strong", "augmentation_kwargs": {}}  # what version 0.1 did where nothing was said
    for key, value in recipe.items():
        if key in AUGMENTATION:
            if value is not None:
                new["augmentation_kwargs"][AUGMENTATION[key]] = value
        elif key not in REMOVED and key != "step_epochs":
            name = RENAMED.get(key, key)
            new[name] = value if isinstance(value, list | dict) else VALUES.get((name, value), value)
    if epochs := recipe.get("step_epochs"):  # which then came before any other schedule
        new |= {"lr_scheduler_type": "step", "lr_scheduler_kwargs": {"step_size": epochs, "gamma": 0.1}}
    if names := ", ".join(f"{key} -> {new_name(key)}" for key in former if key not in REMOVED):
        logger.warning("%s has option names of version 0.1; they were translated: %s", path, names)
    return new


def new_name(key: str) -> str | None:
    """Return today's name of a former option; None where it never was one."""
    return f"augmentation_kwargs.{AUGMENTATION[key]}" if key in AUGMENTATION else RENAMED.get(key)
