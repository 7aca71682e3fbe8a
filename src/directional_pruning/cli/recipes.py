"""The verb ``recipes``."""

from typing import Annotated

import typer

from .app import app, stop

__all__ = ["recipes"]


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Show all settings of this one.")] = None,
) -> None:
    """List what can be trained, or show the settings of one recipe."""
    from ..runs import RECIPES, variants

    if name is None:
        for make in RECIPES.values():
            recipe = make()
            print(f"{recipe.name}: {recipe.summary}")
        return
    try:
        (recipe,) = variants(name)
    except ValueError as error:
        stop(str(error), 2)
    for key, value in (recipe.hyperparameters() | recipe.describe()).items():
        if value is not None:
            print(f"{key} = {value}")
