output "name" {
  value = aws_eks_cluster.this.name
}

output "oidc" {
  value = {
    provider_arn = aws_iam_openid_connect_provider.this.arn
    issuer       = local.issuer
  }
}

output "cluster_autoscaler_role" {
  value = aws_iam_role.service["cluster-autoscaler"].arn
}

output "open_to" {
  description = "Whom the cluster's API answers outside of the network."
  value       = toset(aws_eks_cluster.this.vpc_config[0].endpoint_public_access ? aws_eks_cluster.this.vpc_config[0].public_access_cidrs : [])
}
