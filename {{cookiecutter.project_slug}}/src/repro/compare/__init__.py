"""This room compares finished runs: verdict, explanation, gate, `results.lock`."""
