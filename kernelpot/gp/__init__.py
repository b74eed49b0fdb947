"""The process over environments: labels, design, local energies, posterior."""
