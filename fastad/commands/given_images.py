"""The images that `fastad predict` is given."""

from pathlib import Path

from fastad.commands.output import note
from fastad.commands.predict_results import counted
from fastad.data import images_without_masks
from fastad.data.finding import given_path, walk
from fastad.data.remote import find_remote, is_address


def given_images(images: list[str]) -> list[Path]:
    """Images by the arguments of a command: files, folders and addresses, each image once.

    Masks, and links to images that count already, are left out and said.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder has no images.
    """
    paths: list[Path] = []
    links: list[Path] = []
    for name in images:
        if is_address(name):
            paths += map(Path, find_remote(name) if name.endswith("/") else [name])
            continue
        found = [given_path(name)]
        if found[0].is_dir():
            found = images_without_masks(name)
            below = walk(name)
            if masks := len(below.paths) - len(found):
                note(f"{masks} masks in {name} are no images and are left out")
            if below.repeats:
                counted_already = {path.resolve() for path in found}
                links += [path for path in below.repeats if path.resolve() in counted_already]
        if not found:
            raise ValueError(f"there are no images in the folder {name}")
        if not found[0].exists():
            raise FileNotFoundError(f"there is no image {name}")
        paths += found
    once = list({path.resolve(): path for path in reversed(paths)}.values())[::-1]
    links += set(paths).difference(once)
    if links:
        said = f"{counted(len(links), 'path')} to an image that has another"
        note(f"{said}, such as {min(links)}, {'are' if len(links) > 1 else 'is'} left out")
    return once
