"""Finished runs beside each other: verdict, explanation, gate, `results.lock`."""
