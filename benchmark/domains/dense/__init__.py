"""Dense prediction: rendered rooms and NYUv2, a dilated ResNet with a decoder a task, mIoU, depth and normals."""
