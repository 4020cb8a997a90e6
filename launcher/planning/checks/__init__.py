"""What must hold before anything is submitted. Pure."""
