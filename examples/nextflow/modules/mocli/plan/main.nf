// A benchmark as a plan, its lines, and the table of what has ended. All work in the folder that nextflow was
// started in, where paths begin: every node must see it.

process MOCLI_PLAN {
    conda "${moduleDir}/../benchmark/environment.yml"

    input:
    tuple val(words), val(output)

    output:
    path 'plan.tsv', emit: plan

    script:
    """
    plan=\$PWD/plan.tsv
    cd '${launchDir}' && mocli benchmark ${words} -o ${output} --plan "\$plan"
    """

    stub:
    """
    printf 'id\\tneeds\\tmemory_bytes\\tcommand\\na\\t\\t\\ttrue\\nb\\ta\\t\\ttrue\\n' > plan.tsv
    """
}

process MOCLI_RUN {
    tag "${line.id}"
    conda "${moduleDir}/../benchmark/environment.yml"
    // a line that is done does nothing, one that was killed goes on: it may be started again
    errorStrategy { task.attempt < 3 ? 'retry' : 'ignore' }
    memory { "${(line.memory_bytes ? line.memory_bytes as long : 4000000000L) * 2 * task.attempt} B" }

    input:
    val line

    output:
    val line.id, emit: id

    script:
    """
    cd '${launchDir}' && ${line.command} --threads ${task.cpus}
    """

    stub:
    """
    true
    """
}

process MOCLI_COLLECT {
    conda "${moduleDir}/../benchmark/environment.yml"

    input:
    tuple val(words), val(output)
    val ended

    script:
    """
    cd '${launchDir}' && mocli benchmark ${words} -o ${output} --collect -f
    """

    stub:
    """
    true
    """
}
