//! File system device (virtio 1.3 §5.11), served by another process over vhost-user.
