# A group of nodes for each worker group of cluster/kuberay, by the same name. All but the head's start empty:
# the Cluster Autoscaler adds nodes where pods wait, and takes away those that are idle. Bottlerocket, their system, has
# no shell and a read-only root, and brings NVIDIA's driver and device plugin along.

resource "aws_eks_node_group" "this" {
  for_each = var.node_groups

  cluster_name    = aws_eks_cluster.this.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = each.value.one_zone ? slice(var.subnets, 0, 1) : var.subnets
  ami_type        = each.value.gpu ? "BOTTLEROCKET_x86_64_NVIDIA" : "BOTTLEROCKET_x86_64"
  capacity_type   = each.value.spot ? "SPOT" : "ON_DEMAND"
  instance_types  = each.value.instance_types
  labels          = { "emo/node-type" = each.key }

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  scaling_config {
    min_size     = each.value.min_nodes
    desired_size = each.value.min_nodes
    max_size     = each.value.max_nodes
  }

  dynamic "taint" {
    for_each = each.value.gpu ? ["nvidia.com/gpu"] : []

    content {
      key    = taint.value
      value  = "true"
      effect = "NO_SCHEDULE"
    }
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }

  depends_on = [aws_iam_role_policy_attachment.node]
}

resource "aws_launch_template" "node" {
  name = "${var.name}-node"

  block_device_mappings {
    device_name = "/dev/xvda" # the system

    ebs {
      volume_type = "gp3"
      encrypted   = true
    }
  }

  block_device_mappings {
    device_name = "/dev/xvdb" # images with CUDA, and objects that Ray spills

    ebs {
      volume_type = "gp3"
      volume_size = 200 # GB
      encrypted   = true
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # a pod has its own role, and cannot take the node's
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume"]

    content {
      resource_type = tag_specifications.value
      tags          = { Name = var.name, project = var.name } # the provider's default tags end at the template
    }
  }
}
