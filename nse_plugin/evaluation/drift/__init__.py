"""How far an edited model has moved away from the unedited one."""
