"""The user's files: home folder, configuration files and signing key. Disk I/O."""
