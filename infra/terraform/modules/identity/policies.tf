data "aws_iam_policy_document" "ec2" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "pods" {
  count = var.oidc == null ? 0 : 1

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc.provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.oidc.issuer}:sub"
      values   = ["system:serviceaccount:emo:emo"]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.oidc.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "storage" {
  statement {
    sid       = "List" # without a condition on the prefix, since to ask whether a bucket is there names none
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation"]
    resources = [var.bucket_arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for folder in ["data", "cache", "runs"] : "${var.bucket_arn}/${folder}/*"]
  }

  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = [for folder in ["cache", "runs"] : "${var.bucket_arn}/${folder}/*"]
  }

  statement {
    sid       = "Encrypted"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.key_arn]
  }
}

data "aws_iam_policy_document" "images" {
  statement {
    sid       = "Login"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # it has none to name
  }

  statement {
    sid       = "Pull"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [var.repository_arn]
  }
}

# What Ray's AWS node provider asks for: see, start, tag and stop the nodes of this cluster, as workers, and no others.
data "aws_iam_policy_document" "autoscaling" {
  statement {
    sid = "See"
    actions = [
      "ec2:DescribeAvailabilityZones",
      "ec2:DescribeImages",
      "ec2:DescribeInstances",
      "ec2:DescribeInstanceTypes",
      "ec2:DescribeSecurityGroups",
      "ec2:DescribeSubnets",
    ]
    resources = ["*"] # EC2 describes all or nothing
  }

  statement {
    sid       = "StartInstances"
    actions   = ["ec2:RunInstances"]
    resources = ["${local.own}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/ray-cluster-name"
      values   = [var.name]
    }
  }

  statement {
    sid     = "StartWithin"
    actions = ["ec2:RunInstances"]
    resources = concat(var.subnet_arns, [
      var.security_group_arn,
      "${local.ec2}::image/*",
      "${local.own}:key-pair/*",
      "${local.own}:network-interface/*",
      "${local.own}:spot-instances-request/*",
      "${local.own}:volume/*",
    ])
  }

  statement {
    sid       = "StartAsWorker"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.worker.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }

  statement {
    sid       = "TagAtStart"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.own}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }

  statement {
    sid       = "Keep"
    actions   = ["ec2:CreateTags", "ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances"]
    resources = ["${local.own}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = [var.name]
    }
  }
}

# What the agent of Systems Manager needs in order to bring SSH to a node without a port that is open to the world. AWS's
# own policy for that, AmazonSSMManagedInstanceCore, lets it also read every parameter of the account.
data "aws_iam_policy_document" "shell" {
  #checkov:skip=CKV_AWS_111: a session's channels have no name, and an instance tells of itself alone
  #checkov:skip=CKV_AWS_356: as above
  statement {
    sid = "Sessions"
    actions = [
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"] # a channel has no name
  }
}
