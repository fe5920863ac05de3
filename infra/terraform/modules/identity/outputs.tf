output "head_instance_profile" {
  value = aws_iam_instance_profile.head.name
}

output "worker_instance_profile" {
  value = aws_iam_instance_profile.worker.name
}

output "irsa_role" {
  value = one(aws_iam_role.pods[*].arn)
}
