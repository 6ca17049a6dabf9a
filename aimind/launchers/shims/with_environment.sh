# Become PROGRAM in the environment that scripts set up: bash THIS "NAMES" PROGRAM SCRIPT...
# NAMES are the variables that keep the values they have now, whatever the scripts say. The process stays the
# same one, so that who started it watches the program itself.
kept=$(declare -p $1 2>/dev/null) # a name that bash cannot have is not touched by scripts either
program=$2
scripts=("${@:3}")
set -- # some scripts read arguments, and would find these
for script in "${scripts[@]}"; do
    source "$script"
done
eval "$kept"
exec "$program"
