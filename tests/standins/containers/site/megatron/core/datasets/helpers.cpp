// Stands for the source of the compiled helpers.
