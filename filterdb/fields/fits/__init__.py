"""Receptive fields: kernels fitted with scale-space models.

``families`` defines the models, ``solve`` fits them, ``fit`` compares the families, and ``published`` has the methods of
the paper on the eight learned filters.
"""

from filterdb.fields.fits.families import FAMILIES, Family, Form, Term
from filterdb.fields.fits.fit import FamilyFit, best, fit, model

__all__ = ["FAMILIES", "Family", "FamilyFit", "Form", "Term", "best", "fit", "model"]
