"""Looking at a model without paying for it: modules, parameters, shapes, code and a drawing."""

from model_constructor.show.describe import ModelDescription, describe
from model_constructor.show.inputs import parse_input
from model_constructor.show.svg import render_svg
from model_constructor.show.text import render_text

__all__ = ["ModelDescription", "describe", "parse_input", "render_svg", "render_text"]
