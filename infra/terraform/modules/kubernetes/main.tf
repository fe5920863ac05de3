# An EKS cluster whose nodes have no public address.

resource "aws_eks_cluster" "this" {
  #checkov:skip=CKV_AWS_39: open to admin_cidrs alone, and closed without any
  #checkov:skip=CKV_AWS_38: as above; the variable refuses the whole internet
  name     = var.name
  version  = var.release
  role_arn = aws_iam_role.cluster.arn

  enabled_cluster_log_types = ["api", "audit", "authenticator", "controllerManager", "scheduler"]

  vpc_config {
    subnet_ids              = var.subnets
    endpoint_private_access = true
    endpoint_public_access  = length(var.admin_cidrs) > 0
    public_access_cidrs     = length(var.admin_cidrs) > 0 ? var.admin_cidrs : null
  }

  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = aws_kms_key.secrets.arn
    }
  }

  depends_on = [aws_cloudwatch_log_group.cluster, aws_iam_role_policy_attachment.cluster]
}

resource "aws_kms_key" "secrets" {
  description             = "The secrets of the Kubernetes cluster ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109: the statement that leaves a key to its account's policies, without which nobody could manage it
  #checkov:skip=CKV_AWS_111: as above
  #checkov:skip=CKV_AWS_356: in a key's policy, "*" is that key
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["${local.iam}:${data.aws_caller_identity.current.account_id}:root"]
    }
  }
}

# EKS would make it by itself, and keep its logs for ever.
resource "aws_cloudwatch_log_group" "cluster" {
  #checkov:skip=CKV_AWS_158: CloudWatch encrypts it with a key of its own; no post and no secret is in it
  name              = "/aws/eks/${var.name}/cluster"
  retention_in_days = 365
}

resource "aws_eks_addon" "this" {
  for_each = var.addons

  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  service_account_role_arn    = each.key == "aws-ebs-csi-driver" ? aws_iam_role.service["ebs-csi"].arn : null
  configuration_values        = try(jsonencode(local.addon_options[each.key]), null)
  resolve_conflicts_on_create = "OVERWRITE" # a new cluster comes with some of them, unmanaged

  depends_on = [aws_eks_node_group.this]
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  addon_options = {
    aws-ebs-csi-driver = { defaultStorageClass = { enabled = true } } # for the head's volume
    vpc-cni            = { enableNetworkPolicy = "true" }
  }
  iam = "arn:${data.aws_partition.current.partition}:iam:"
}
