"""This room reads finished runs beside each other: verdict, explanation, gate, `results.lock`."""
