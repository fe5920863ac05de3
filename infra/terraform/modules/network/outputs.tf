output "subnets" {
  value = [for subnet in aws_subnet.private : subnet.id]
}

output "subnet_arns" {
  value = [for subnet in aws_subnet.private : subnet.arn]
}

output "security_group" {
  value = aws_security_group.nodes.id
}

output "security_group_arn" {
  value = aws_security_group.nodes.arn
}

output "ssh_from" {
  value = toset([for rule in aws_vpc_security_group_ingress_rule.ssh : rule.cidr_ipv4])
}
