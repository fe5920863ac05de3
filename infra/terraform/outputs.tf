# The first seven are what cluster/settings.yaml asks for.

output "bucket" {
  description = "Holds cache/ and runs/, which the nodes write, and data/, which they only read."
  value       = "s3://${module.storage.bucket}"
}

output "repository" {
  description = "Where images are pushed to and pulled from, without a tag."
  value       = module.registry.url
}

output "head_instance_profile" {
  value = module.identity.head_instance_profile
}

output "worker_instance_profile" {
  value = module.identity.worker_instance_profile
}

output "subnets" {
  description = "Private ones, one a zone."
  value       = module.network.subnets
}

output "security_group" {
  value = module.network.security_group
}

output "irsa_role" {
  description = "For the annotation eks.amazonaws.com/role-arn of the service account emo in the namespace emo."
  value       = module.identity.irsa_role
}

output "kubernetes_cluster" {
  description = "For `aws eks update-kubeconfig --name`."
  value       = one(module.kubernetes[*].name)
}

output "cluster_autoscaler_role" {
  description = "For the service account cluster-autoscaler in kube-system, which adds nodes where pods wait."
  value       = one(module.kubernetes[*].cluster_autoscaler_role)
}
