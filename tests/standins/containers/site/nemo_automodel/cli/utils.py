"""Stands for what AutoModel's command does with the name of a recipe."""


def resolve_recipe_name(name: str) -> str:
    return name if "." in name else f"nemo_automodel.recipes.llm.train_ft.{name}"
