# Three roles, none with a key that could be lost: the head's, the workers', and that of the pods in Kubernetes.

resource "aws_iam_role" "head" {
  name               = "${var.name}-head"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
}

resource "aws_iam_role" "pods" {
  count = var.oidc == null ? 0 : 1

  name               = "${var.name}-pods"
  assume_role_policy = data.aws_iam_policy_document.pods[0].json
}

resource "aws_iam_instance_profile" "head" {
  name = aws_iam_role.head.name
  role = aws_iam_role.head.name
}

resource "aws_iam_instance_profile" "worker" {
  name = aws_iam_role.worker.name
  role = aws_iam_role.worker.name
}

resource "aws_iam_policy" "storage" {
  name   = "${var.name}-storage"
  policy = data.aws_iam_policy_document.storage.json
}

resource "aws_iam_policy" "images" {
  name   = "${var.name}-images"
  policy = data.aws_iam_policy_document.images.json
}

resource "aws_iam_policy" "autoscaling" {
  name   = "${var.name}-autoscaling"
  policy = data.aws_iam_policy_document.autoscaling.json
}

resource "aws_iam_policy" "shell" {
  name   = "${var.name}-shell"
  policy = data.aws_iam_policy_document.shell.json
}

resource "aws_iam_role_policy_attachment" "head" {
  for_each = {
    storage     = aws_iam_policy.storage.arn
    images      = aws_iam_policy.images.arn
    autoscaling = aws_iam_policy.autoscaling.arn
    shell       = aws_iam_policy.shell.arn
  }

  role       = aws_iam_role.head.name
  policy_arn = each.value
}

resource "aws_iam_role_policy_attachment" "worker" {
  for_each = {
    storage = aws_iam_policy.storage.arn
    images  = aws_iam_policy.images.arn
  }

  role       = aws_iam_role.worker.name
  policy_arn = each.value
}

# Kubernetes itself pulls the images, with the role of its nodes.
resource "aws_iam_role_policy_attachment" "pods" {
  count = length(aws_iam_role.pods)

  role       = aws_iam_role.pods[0].name
  policy_arn = aws_iam_policy.storage.arn
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  ec2 = "arn:${data.aws_partition.current.partition}:ec2:${data.aws_region.current.name}"
  own = "${local.ec2}:${data.aws_caller_identity.current.account_id}"
}
