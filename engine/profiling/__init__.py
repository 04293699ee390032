"""Profiles of the engine on a GPU: what each part moved and computed, beside what the hardware could."""
