"""What people see: screen, figures, reports."""
