output "private_subnets" {
  value = [for subnet in aws_subnet.private : subnet.id]
}

output "private_subnet_arns" {
  value = [for subnet in aws_subnet.private : subnet.arn]
}

output "public_subnets" {
  value = [for subnet in aws_subnet.public : subnet.id]
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
