"""The user's own files: the home folder, configuration files and the signing key. Disk I/O."""
