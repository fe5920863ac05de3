# `terraform test`: what is planned, without an account.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }

  mock_data "aws_region" {
    defaults = { name = "us-east-1" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
}

run "closed_unless_asked" {
  command = plan

  assert {
    condition     = length(module.kubernetes) == 0 && output.irsa_role == null
    error_message = "Kubernetes is made without being asked for."
  }

  assert {
    condition     = length(module.network.ssh_from) == 0
    error_message = "SSH is open without ssh_cidrs."
  }
}

run "nothing_for_the_whole_internet" {
  command = plan

  variables {
    admin_cidrs = ["0.0.0.0/0"]
    ssh_cidrs   = ["0.0.0.0/0"]
  }

  expect_failures = [var.admin_cidrs, var.ssh_cidrs]
}

run "eks_needs_two_zones" {
  command = plan

  variables {
    zones = "us-east-1a"
  }

  expect_failures = [var.zones]
}

run "kubernetes_for_its_admins" {
  command = plan

  variables {
    enable_kubernetes = true
    admin_cidrs       = ["203.0.113.7/32"]
    ssh_cidrs         = ["10.8.0.0/16"]
  }

  assert {
    condition     = module.network.ssh_from == toset(["10.8.0.0/16"])
    error_message = "SSH is open to others than ssh_cidrs."
  }

  assert {
    condition     = module.kubernetes[0].open_to == toset(["203.0.113.7/32"])
    error_message = "The cluster's API is open to others than its admins."
  }
}

run "kubernetes_without_admins_is_private" {
  command = plan

  variables {
    enable_kubernetes = true
  }

  assert {
    condition     = length(module.kubernetes[0].open_to) == 0
    error_message = "The cluster's API is open to the internet."
  }
}
