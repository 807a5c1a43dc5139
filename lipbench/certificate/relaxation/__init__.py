"""Linear relaxation (CROWN): a second kind of certificate, for small networks."""
