"""What PostgreSQL remembers: tables, and the questions asked of them."""
