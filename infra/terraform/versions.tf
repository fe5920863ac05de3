terraform {
  required_version = ">= 1.10" # locks of the S3 backend without a table

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }

  # Where the state lies is yours to say, at `terraform init -backend-config=backend.hcl`, with a file like
  #
  #   bucket       = "my-terraform-states" # private, versioned, and not the bucket that is made here
  #   key          = "emo/terraform.tfstate"
  #   region       = "us-east-1"
  #   encrypt      = true
  #   use_lockfile = true
  backend "s3" {}
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = var.name }
  }
}
